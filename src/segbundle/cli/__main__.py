"""Run `python -m segbundle.cli`, the `segbundle` command for launchers such as `torchrun -m`."""

from segbundle.cli import main

if __name__ == "__main__":
    main()
