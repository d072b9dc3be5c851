# hosts: 2
# up: --domain foo.bar
# resolver: --local=/weave.local/
# The cluster's domain is what it was founded with.
attached h1 seeone
attached h2 seetwo
answered seeone seetwo.foo.bar "$(ip4 seetwo)"
answered seeone seetwo.weft.foo.bar "$(ip4 seetwo)"
answered seeone seetwo "$(ip4 seetwo)"
answered seeone seetwo.weave.local
inside seeone grep -q 'search weft.foo.bar' /etc/resolv.conf
