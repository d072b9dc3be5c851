# hosts: 1
# A program is found by its name on its own host, in both families, and by its address.
attached h1 seeone
attached h1 seetwo
answered seetwo seeone "$(ip4 seeone)"
answered seeone seetwo.weave.local "$(ip4 seetwo)"
[ "$(inside seeone getent ahostsv6 seetwo | awk 'NR == 1 { print $1 }')" = "$(ip6 seetwo)" ]
