"""The shell that the launchers are tried with: `BASH_UNDER_TEST=/bin/bash` on a Mac means its bash 3.2."""

import os

BASH = os.environ.get("BASH_UNDER_TEST", "bash")
