# hosts: 2
# A host that leaves for good gives its addresses back: the others have them at once.
owners() { "$1" weft ipam --json | grep -o '"owner": *"h[0-9]"' | sort -u | grep -o 'h[0-9]' | paste -sd ' ' -; }
owned() { [ "$(owners "$1")" = "$2" ]; }
eventually owned h1 "h1 h2"
h2 weft down --leave
eventually owned h1 h1
attached h1 box --ip 10.32.15.254
