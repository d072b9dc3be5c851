# hosts: 2
# docker: alone
# One network by Docker's own command on both hosts: containers reach each other by address and by name.
network h1 party
network h2 party
container h1 c1 party
container h2 c2 party
one=$(address h1 c1 party) two=$(address h2 c2 party)
[ "$one" != "$two" ] || fail "both have $one"
reaches h1 c1 "$two"
reaches h2 c2 "$one"
reaches h1 c1 c2
reaches h2 c2 c1.party.weave.local
# Started again it is found where it is now.
h1 docker restart -t 0 c1 >/dev/null
reaches h2 c2 c1
reaches h2 c2 "$(address h1 c1 party)"
