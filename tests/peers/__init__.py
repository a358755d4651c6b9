"""Our parts under the peers' own tests: torch's databases of what it checks of every module and optimizer, with our classes in
the place of torch's. `make peers` runs them in full, `make test` a part. What differs on purpose stands in one list a file."""
