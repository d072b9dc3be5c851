# hosts: 2
# The cluster's range is as it was founded: a host that asks for another one is told so, and has the cluster's.
told() { h2 weft status | grep -q 'cluster has the range 10.32.0.0/12, not 10.200.0.0/16'; }
attached h2 box
ip=$(ip4 box)
h2 weft down
up h2 --range 10.200.0.0/16
eventually told
h2 weft attachments | grep -q "$ip"
h2 weft down
up h2
if told; then fail "still told after a start without --range"; fi
