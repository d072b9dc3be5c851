# hosts: 3
# A host that is gone for good is removed, and another has its addresses; those that live keep their own.
owned() { [ "$(h1 weft ipam | awk 'NR > 1 { print $4 }' | sort -u | paste -sd ' ' -)" = "$1" ]; }
eventually owned "h1 h2 h3"
attached h3 box
ip=$(ip4 box)
ended box
h3 weft down
eventually h1 weft host rm h3
within 20 owned "h1 h2"
attached h1 again --ip "$ip"
