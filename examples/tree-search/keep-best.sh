# keep-best.sh - of machines that report, the best takes its origin's place: sourced, not run

# keep_best ORIGIN REPORTS: each line is a machine's name, its distance from 100, its number, and the way to it.
keep_best() {
	local name distance x path best
	while read -r name distance x path; do
		echo "$name: $path = $x, $distance from 100"
	done <<< "$2"
	read -r best distance x path < <(sort -n -k 2,2 <<< "$2")
	echo "$best is the best: $path = $x"
	while read -r name _; do
		[ "$name" = "$best" ] || rmdir "$SBX/$name"
	done <<< "$2"
	[ "$best" = "$1" ] || mv -T "$SBX/$best" "$SBX/$1"
	echo "what is left of it: $(in_vm "$1" 'echo "$(hostname), $(cat /root/report)"')"
}
