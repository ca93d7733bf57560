"""`python -m streamgrad.session` builds the native piece of `learner.session`, with the C++ compiler of the system."""

import sys

from . import _native


def main() -> int:
    """Build it; the exit status is 1 after one sentence about what is wrong."""
    try:
        library = _native.build()
    except (OSError, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"Built {library}: learner.session(state) uses it from now on.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
