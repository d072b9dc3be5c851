# hosts: 1
# What is not there is told at once, with an authority; a name that has no such record is another answer.
attached h1 seeone
status() { inside seeone dig @10.32.0.1 +time=3 +tries=1 "$@" | grep -o 'status: [A-Z]*'; }
eventually inside seeone getent ahostsv4 seeone
[ "$(status nobody.weft.weave.local A)" = "status: NXDOMAIN" ]
[ "$(status seeone.weft.weave.local MX)" = "status: NOERROR" ]
inside seeone dig @10.32.0.1 nobody.weave.local | grep -q 'weave.local.*SOA'
