# hosts: 2
# Names are known on all hosts; one that has ended is known nowhere.
attached h1 seeone
attached h2 seetwo
answered seeone seetwo "$(ip4 seetwo)"
answered seetwo seeone "$(ip4 seeone)"
ended seetwo
answered seeone seetwo
