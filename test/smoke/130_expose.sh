# hosts: 2
# A host has an address in the network when it is exposed, for other hosts and programs, and none when it is hidden.
h1 weft expose
h2 weft expose
attached h2 box
host=$(h1 ip -4 -o addr show to 10.32.0.0/12 | awk '{ sub("/.*", "", $4); print $4 }')
eventually h2 ping -c 1 -W 1 "$host"
eventually inside box ping -c 1 -W 1 "$host"
eventually h1 ping -c 1 -W 1 "$(ip4 box)"
eventually h1 ping -6 -c 1 -W 1 "$(ip6 box)"
h1 weft hide
if h1 ip -4 -o addr show to 10.32.0.0/12 | grep .; then fail "h1 still has an address"; fi
if inside box ping -c 1 -W 1 "$host"; then fail "$host still answers"; fi
refused "no exposed address in network weft" h1 weft hide
