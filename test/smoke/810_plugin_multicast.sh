# hosts: 2
# docker: alone
# What a container says to a group is heard in the same network on another host, and in no other network.
group=239.1.2.3:5000
for h in h1 h2; do
	network $h party
done
network h2 other
container h1 says party
container h2 hears party
container h2 deaf other
for c in hears deaf; do
	h2 docker exec -d $c sh -c "weft recv $group >/heard"
done
heard() { h2 docker exec "$1" cat /heard | grep -q hello; }
say() { h1 docker exec says sh -c "echo hello | weft send $group" && heard hears; }
eventually say
! heard deaf || fail "heard in another network"
