# hosts: 1
# Case makes no difference.
attached h1 seeone
attached h1 seetwo
answered seeone SeeTwo.WEAVE.Local "$(ip4 seetwo)"
answered seeone SEETWO "$(ip4 seetwo)"
