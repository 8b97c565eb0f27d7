# lib.sh - a mount to play on, for the examples: sourced, not run
#
# Uses the mount in $SBX if that is set, and otherwise makes a temporary one, which ends with the script. $SBX_STATE keeps
# a temporary mount's state (its images) from one run to the next.

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PATH=$top/build:$PATH

if [ -z "${SBX-}" ]; then
	tmp=$(mktemp -d)
	SBX=$tmp/sbx
	: "${SBX_STATE:=$tmp/state}"
	export SBX SBX_STATE
	mkdir "$SBX"
	sbxfs -f --state "$SBX_STATE" "$SBX" &
	daemon=$!
	finish() {
		fusermount3 -uz "$SBX" || true
		wait "$daemon" || true
		rm -rf "$tmp"
	}
	trap finish EXIT
	until mountpoint -q "$SBX"; do
		kill -0 "$daemon"
		sleep 0.02
	done
fi

# need_image NAME PACKAGE...: make an image of Debian packages unless it is there.
need_image() {
	[ -e "$SBX/images/$1" ] || "$top/examples/debian-image" "$@"
}

# in_vm VM LINE: run a command line in a machine and print what it prints.
in_vm() {
	local reply
	exec {reply}<> "$SBX/$1/run"
	printf '%s\n' "$2" >&"$reply"
	cat <&"$reply"
	exec {reply}>&-
}
