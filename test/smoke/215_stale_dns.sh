# hosts: 2
# A name that another host has now is that host's: nothing of the first holder is answered.
attached h1 ask
attached h1 db
old=$(ip4 db)
answered ask db "$old"
ended db
answered ask db
attached h2 db
answered ask db "$(ip4 db)"
[ "$(ip4 db)" != "$old" ]
