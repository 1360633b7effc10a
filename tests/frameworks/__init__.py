"""What needs other frameworks; `make test-frameworks` installs and runs it, `make test` does not."""
