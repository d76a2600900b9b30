"""`python -m urbancross_bench` is the same as `urbancross-bench`."""

from urbancross_bench.cli.app import main

if __name__ == "__main__":
    main()
