"""The commands, one a module, each with `main(argv) -> exit code`."""
