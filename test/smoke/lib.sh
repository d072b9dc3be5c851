# The words of the smoke tests. On the path are h1, h2, ...: each runs a command on that host, where weft is up.
set -eu
started=""
trap 'for p in $started; do kill "$p" 2>/dev/null || :; done' EXIT

fail() {
	echo "$*" >&2
	exit 1
}

# eventually COMMAND...: it succeeds within 10 s.
eventually() {
	end=$(($(date +%s) + 10))
	until "$@" >/dev/null 2>&1; do
		[ "$(date +%s)" -lt "$end" ] || { "$@" || fail "not within 10 s: $*"; return 0; }
		sleep 0.1
	done
}

# refused TEXT COMMAND...: it fails, and says why in these words.
refused() {
	text=$1
	shift
	if said=$("$@" 2>&1); then fail "succeeded: $*: $said"; fi
	case $said in *"$text"*) ;; *) fail "$*: $said, want: $text" ;; esac
}

# attached HOST NAME [OPTION...]: a program of that name is attached on a host until it is ended.
attached() {
	host=$1 name=$2
	shift 2
	"$host" weft run --name "$name" "$@" -- sleep 1000 &
	eval "pid_$name=$!"
	started="$started $!"
	eventually inside "$name" ip addr show weft0 up
}

# inside NAME COMMAND...: as that program sees the world.
inside() {
	eval "p=\$pid_$1"
	shift
	nsenter -t "$p" -n -m "$@"
}

# ended NAME: the program ends.
ended() {
	eval "p=\$pid_$1"
	kill "$p"
}

# ip4 NAME: its address. ip6 NAME: the other one.
ip4() { inside "$1" ip -4 -o addr show weft0 | awk '{ sub("/.*", "", $4); print $4 }'; }
ip6() { inside "$1" ip -6 -o addr show weft0 scope global | awk '{ sub("/.*", "", $4); print $4 }'; }

# lookup NAME WHAT: the IPv4 addresses that a program is told of a name, in order, one line.
lookup() { inside "$1" getent ahostsv4 "$2" | awk '{ print $1 }' | sort -u | paste -sd ' ' -; }

# answered NAME WHAT [ADDRESS...]: a program is told just these addresses; none: there is no such name.
answered() {
	who=$1 what=$2
	shift 2
	eventually told "$who" "$what" "$(printf '%s\n' "$@" | sort | paste -sd ' ' -)"
}
told() {
	got=$(lookup "$1" "$2" || :)
	[ "$got" = "$3" ] || { echo "$1 is told of $2: '$got', want '$3'"; return 1; }
}
