#!/bin/sh
# Finds a Python that is new enough and passes all arguments to launch.py. The one in .venv starts fastest.
bin=$(dirname "$0")
for python in "$bin/../.venv/bin/python" python3 python3.15 python3.14 python3.13 python3.12 python3.11 python; do
    if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
        exec "$python" "$bin/launch.py" "$@"
    fi
done
echo "Python 3.11 or newer is needed, and none was found. It is at https://www.python.org/downloads/." >&2
exit 1
