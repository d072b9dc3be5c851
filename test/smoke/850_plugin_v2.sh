# hosts: 2
# docker: swarm
# A network of the Swarm, made by one command on a manager: the tasks of a service on two nodes have addresses of their own, reach each
# other, and are found by the service's name.
for h in h1 h2; do
	$h weft docker setup --swarm >/dev/null
done
h1 docker swarm init --advertise-addr "$(value h1 ADDRESS)" >/dev/null
h2 docker swarm join --advertise-addr "$(value h2 ADDRESS)" --token "$(h1 docker swarm join-token -q worker)" "$(value h1 ADDRESS):2377" >/dev/null
h1 weft docker network create party >/dev/null
h1 docker service create --detach --name pair --replicas 2 --network party --dns "$(server h1 party)" --dns-search party.weave.local --no-resolve-image \
	--stop-grace-period 1s "$(value h1 IMAGE)" sleep 100000 >/dev/null
task() { "$1" docker ps -q --filter label=com.docker.swarm.service.name=pair; }
placed() { [ -n "$(task h1)" ] && [ -n "$(task h2)" ] && [ -n "$(address h1 "$(task h1)" party)" ] && [ -n "$(address h2 "$(task h2)" party)" ]; }
within 60 placed
[ "$(address h1 "$(task h1)" party)" != "$(address h2 "$(task h2)" party)" ] || fail "both have one address"
reaches h1 "$(task h1)" "$(address h2 "$(task h2)" party)"
reaches h2 "$(task h2)" "$(address h1 "$(task h1)" party)"
reaches h1 "$(task h1)" tasks.pair
h1 docker service rm pair >/dev/null
gone() { h1 weft docker network rm party && [ -z "$(h2 docker network ls -q -f name=party)" ]; }
within 30 gone
