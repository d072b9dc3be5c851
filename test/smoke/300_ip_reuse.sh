# hosts: 2
# An address that another program has now, on the same host or another, is that program's at once: nothing of the first holder lingers.
attached h1 ask
attached h2 first
ip=$(ip4 first)
eventually inside ask ping -c 1 -W 1 "$ip"
ended first
free() { ! h1 weft attachments --json | grep -q "\"$1/"; }
eventually free "$ip"
attached h2 second --ip "$ip"
eventually inside ask ping -c 1 -W 1 "$ip"
ended second
eventually free "$ip"
attached h1 third --ip "$ip"
[ "$(ip4 third)" = "$ip" ]
eventually inside ask ping -c 1 -W 1 "$ip"
refused "in use by third" h2 weft run --ip "$ip" -- true
