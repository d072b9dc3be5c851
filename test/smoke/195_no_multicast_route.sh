# hosts: 1
# Programs have a route for groups; a host that is exposed has one when it asks.
attached h1 box
inside box ip route | grep -q '^224.0.0.0/4 dev weft0'
h1 weft expose
if h1 ip route | grep 224.0.0.0/4; then fail "an exposed host has a route for groups"; fi
h1 weft hide
h1 weft expose --multicast-route
h1 ip route | grep -q '^224.0.0.0/4 dev w'
