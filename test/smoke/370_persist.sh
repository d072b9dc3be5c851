# hosts: 2
# Addresses and shares outlive a restart of all hosts: programs keep theirs, and no other gets them.
attached h1 one
attached h2 two
h1 weft expose
ip1=$(ip4 one) ip2=$(ip4 two)
ranges() { h1 weft ipam | awk '{ print $1, $2, $4 }'; }
before=$(ranges)
h2 weft down
h1 weft down
up h1
up h2
[ "$(ip4 one) $(ip4 two)" = "$ip1 $ip2" ]
eventually inside one ping -c 1 -W 1 "$ip2"
same() { [ "$(ranges)" = "$before" ]; }
eventually same
refused "in use by one" h2 weft run --ip "$ip1" -- true
attached h1 late
[ "$(ip4 late)" != "$ip1" ]
