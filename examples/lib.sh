# lib.sh - a mount to play on, for the examples: sourced, not run
#
# $SBX is the mount: the one in $SBX_MOUNT if that is set, and otherwise a temporary one, which ends with the script.
# $SBX_STATE is the state directory that belongs to it; set for a temporary mount, it keeps the images from one run to
# the next. $SBX_OPTIONS are more options for a temporary mount. $SBX_IMAGE is an image that has what an example wants of
# Debian's packages, to take instead of one that is made for it.

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PATH=${SBX_BUILD:-$top/build}:$PATH

SBX=${SBX_MOUNT-}
if [ -z "$SBX" ]; then
	tmp=$(mktemp -d)
	SBX=$tmp/sbx
	: "${SBX_STATE:=$tmp/state}"
	mkdir "$SBX"
	# shellcheck disable=SC2086 # they are several words
	sbxfs -f --state "$SBX_STATE" ${SBX_OPTIONS-} "$SBX" &
	daemon=$!
	# The script may still have files of the mount open: the daemon is told to end, and does not wait for them.
	finish() {
		kill "$daemon" 2> /dev/null || true
		wait "$daemon" || true
		rm -rf "$tmp"
	}
	trap finish EXIT
	until mountpoint -q "$SBX"; do
		kill -0 "$daemon"
		sleep 0.02
	done
elif [ -e "$SBX/status" ]; then
	: "${SBX_STATE:=$(sed -n 's/^store //p' "$SBX/status")}"
else
	echo "$0: no sbxfs is mounted at \$SBX_MOUNT, $SBX; without that variable it makes a mount of its own" >&2
	exit 1
fi

# need_image NAME PACKAGE...: make an image of Debian packages unless it is there; $image is its name.
need_image() {
	image=${SBX_IMAGE:-$1}
	[ -e "$SBX/images/$image" ] || sbx image build "$1" --debian "${@:2}" ${SBX_STATE:+--state "$SBX_STATE"}
}

# in_vm VM LINE: run a command line in a machine and print what it prints.
in_vm() {
	local reply
	exec {reply}<> "$SBX/$1/run"
	printf '%s\n' "$2" >&"$reply"
	cat <&"$reply"
	exec {reply}>&-
}

# need_base: the same for the image base.
need_base() {
	[ -e "$SBX/images/base" ] || sbx image build base ${SBX_STATE:+--state "$SBX_STATE"} > /dev/null
}
