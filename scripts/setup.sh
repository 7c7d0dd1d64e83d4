# Sourced by scripts/train and scripts/test: `source setup.sh run` or `source setup.sh dev`.
# Leaves the shell at the repository's root, with a whole .venv there. Says everything on stderr and reads no stdin.

CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

# The first Python >= 3.11 that can make environments; one that lacks ensurepip is only named, if there is no other.
find_python() {
  local name seen='' lacking=''
  for name in python3 python3.13 python3.12 python3.11 python3.14 python; do
    command -v "$name" >/dev/null || continue
    if ! "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      seen+=" $name ($("$name" --version 2>&1 | head -n 1))"
    elif ! "$name" -c 'import ensurepip, venv' 2>/dev/null; then
      lacking=${lacking:-$name}
    else
      command -v "$name"
      return
    fi
  done
  if [ -n "$lacking" ]; then
    name=$("$lacking" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
    echo "$lacking has no ensurepip, which makes environments; on Debian and Ubuntu: apt install $name-venv" >&2
  else
    echo "lightwatch needs Python 3.11 or newer on the PATH; found:${seen:- none}" >&2
  fi
  return 1
}

if ! { [ -x .venv/bin/python ] && .venv/bin/python -I scripts/environment.py --ready "$1"; } </dev/null >&2; then
  base_python=$(find_python </dev/null)
  "$base_python" -I scripts/environment.py --python "$base_python" "$1" </dev/null >&2
fi
