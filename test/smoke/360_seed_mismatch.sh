# hosts: 2
# A host that founded a cluster of its own does not become part of another by being introduced to it: it is told, and both stay what they were.
at=$(h1 ip -4 -o addr show eth0 | awk '{ sub("/.*", "", $4); print $4 }')
h2 weft down --leave
up h2
attached h1 here
attached h2 there
h2 weft connect "$at"
told() { h2 weft status | grep -q "$at:6783 takes TCP but not this token"; }
eventually told
warned() { h1 weft status | grep -q 'tries to join with a wrong token'; }
eventually warned
if h1 weft hosts | grep 'h2 *alive'; then fail "two clusters have become one"; fi
# Each gives addresses from a ring of its own, so both have the same ones.
[ "$(ip4 here)" = "$(ip4 there)" ]
