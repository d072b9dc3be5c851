# hosts: 1
# A namespace of one's own keeps its resolv.conf, and can ask all the same.
unshare -n sleep 1000 &
started="$started $!" pid_plain=$!
other() { [ "$(readlink /proc/$pid_plain/ns/net)" != "$(readlink /proc/self/ns/net)" ]; }
eventually other
attached h1 db
before=$(cat /etc/resolv.conf)
h1 weft attach --pid "$pid_plain" --name plain --json | grep -q '"10.32.0.1"'
[ "$(inside plain cat /etc/resolv.conf)" = "$before" ]
[ "$(inside plain dig @10.32.0.1 +short +time=3 +tries=1 db.weave.local)" = "$(ip4 db)" ]
answered db plain "$(ip4 plain)"
