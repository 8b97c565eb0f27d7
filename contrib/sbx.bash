# bash completion for sbx; SPDX-License-Identifier: MIT
#
# Commands, names of sandboxes, snapshots, images and states, and options as --help lists them.

_sbx_mount() {
	if [ -n "${SBX_MOUNT-}" ]; then
		printf '%s\n' "$SBX_MOUNT"
	else
		awk '$3 == "fuse.sbxfs" { print $2; exit }' /proc/mounts
	fi
}

# Names of what is in a directory of the mount; of its root, sandboxes.
_sbx_names() {
	local mount entry
	mount=$(_sbx_mount)
	[ -n "$mount" ] || return
	for entry in "$mount/$1"*/; do
		[ -d "$entry" ] || continue
		entry=${entry%/}
		case ${entry##*/} in
		images | snapshots) [ -n "$1" ] || continue ;;
		esac
		printf '%s\n' "${entry##*/}"
	done
}

_sbx_options() {
	sbx "$@" --help 2> /dev/null | sed -n 's/^  \(-[^ ,]*\)\(, \(--[^ ]*\)\)\{0,1\}.*/\1 \3/p'
}

_sbx() {
	local word=${COMP_WORDS[COMP_CWORD]} command=${COMP_WORDS[1]-} words=
	COMPREPLY=()
	if [ "$COMP_CWORD" = 1 ]; then
		words=$(sbx --help | sed -n 's/^  \([a-z][a-z]*\)  .*/\1/p')
	elif [[ $word == -* ]]; then
		words=$(_sbx_options "$command")
	else
		case $command:$COMP_CWORD in
		exec:* | sh:2 | dial:2 | forward:2 | logs:*) words=$(_sbx_names '') ;;
		wait:2) words=$(_sbx_names '') ;;
		wait:*) words="created running paused stopped crashed suspended" ;;
		run:*) words=$(_sbx_names images/) ;;
		image:2) words="build pull import export ls rm" ;;
		image:*) words=$(_sbx_names images/) ;;
		snapshot:2) words="save load verify dump" ;;
		snapshot:3) [ "${COMP_WORDS[2]}" = save ] && words=$(_sbx_names '') || words=$(_sbx_names snapshots/) ;;
		help:2) words=$(sbx --help | sed -n 's/^  \([a-z][a-z]*\)  .*/\1/p') ;;
		esac
	fi
	mapfile -t COMPREPLY < <(compgen -W "$words" -- "$word")
	# Otherwise files of this host, as cp and image import want.
	[ ${#COMPREPLY[@]} -gt 0 ] || mapfile -t COMPREPLY < <(compgen -f -- "$word")
}

complete -F _sbx sbx
