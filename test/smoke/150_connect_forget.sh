# hosts: 2
# Hosts to find the cluster by are added and taken away while weft runs.
h1 weft connect 192.0.2.1 192.0.2.2
listed() { h1 weft status --json | grep -q "\"$1\""; }
listed 192.0.2.1
h1 weft forget 192.0.2.1
if listed 192.0.2.1; then fail "192.0.2.1 is still there"; fi
listed 192.0.2.2
refused "forget 192.0.2.1: not among the hosts given" h1 weft forget 192.0.2.1
