"""What needs other frameworks; `make test-frameworks` installs them and runs it."""
