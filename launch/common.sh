# shellcheck shell=bash
# Sourced by the launchers: errors, --help, and commands that --dry-run prints instead of running.

dry_run=

die() { # die MESSAGE: a mistake that the user can mend
  echo "$(basename "$0"): error: $*; see $0 --help" >&2
  exit 2
}

help() { # the comment at the head of the launcher
  sed -n '2,/^[^#]/{s/^# \{0,1\}//p;}' "$0"
}

quoted() { # a command as it would be typed
  local words
  words=$(printf ' %q' "$@")
  echo "${words# }"
}

run() { # runs a command, shown on stderr; with --dry-run only prints it
  if [ -n "$dry_run" ]; then
    quoted "$@"
  else
    echo "\$ $(quoted "$@")" >&2
    "$@"
  fi
}

value() { # value OPTION [VALUE]: refuses an option that lacks its value
  [ $# -ge 2 ] || die "$1 wants a value"
}
