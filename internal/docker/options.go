package docker

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Options of weft's, with docker network create: --ipam-opt KEY=VALUE comes with a pool, -o KEY=VALUE with a network.
const (
	optNetwork = "weft.network"         // both: the weft network's name
	optPlain   = "weft.plain"           // both: not encrypted; with a pool: should the network have to be made
	optRoute   = "weft.multicast-route" // -o: groups leave by this network; default true
	optIPv6    = "weft.ipv6"            // -o: containers get an IPv6 address; default true
)

// addressSpace is how Docker tells pools of this IPAM from others.
const addressSpace = "weft"

// MinMTU is the least that IPv6 allows (RFC 8200 section 5).
const MinMTU = 1280

// command is what to type to have a weft network in Docker.
func command(name string, more ...string) string {
	name = cmp.Or(name, "NAME")
	words := append([]string{"docker network create -d weft --ipam-driver weft --ipam-opt weft.network=" + name}, more...)
	return strings.Join(append(words, name), " ")
}

// options checks that all keys are known; Docker's own pass.
func options(all map[string]string, flag string, known ...string) error {
	for k := range all {
		if !slices.Contains(known, k) && !strings.HasPrefix(k, foreign) {
			return fmt.Errorf("%s %.80s: no such option; there are %s", flag, k, strings.Join(known, ", "))
		}
	}
	return nil
}

// truth reads an option that is true or false; nothing said is none.
func truth(all map[string]string, key string, none bool) (bool, error) {
	text, ok := all[key]
	if !ok {
		return none, nil
	}
	if text == "" { // -o KEY
		return true, nil
	}
	v, err := strconv.ParseBool(text)
	if err != nil {
		return false, fmt.Errorf("%s=%.40s: want true or false", key, text)
	}
	return v, nil
}
