# hosts: 3
# A host is known by its key, not by its name: under another name it has what it had; a name that another has is refused, with the fix.
attached h2 box
ip=$(ip4 box)
id() { h1 weft hosts --json | tr -d ' \n' | grep -o "\"id\":\"[^\"]*\",\"name\":\"$1\"\|\"name\":\"$1\",\"id\":\"[^\"]*\"" | grep -o '"id":"[^"]*"'; }
was=$(id h2)
[ -n "$was" ]
h2 weft down
up h2 --name other
renamed() { [ "$(id other)" = "$was" ]; }
eventually renamed
[ "$(ip4 box)" = "$ip" ]
h1 weft attachments | grep -q "$ip"
h3 weft down
taken() { timeout 5 h3 weft up --name other 2>&1 | grep 'the host name \\"other\\" is taken by\|the host name "other" is taken by' | grep -e --name; }
eventually taken
up h3
