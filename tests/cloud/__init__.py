"""What needs real servers; `make test-cloud` installs and runs it, `make test` leaves it alone."""
