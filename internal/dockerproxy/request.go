package dockerproxy

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// request is what a container shall be. What is not understood here goes to Docker as it came.
type request struct {
	all  map[string]json.RawMessage
	host map[string]json.RawMessage // HostConfig
}

func parse(body []byte) (request, error) {
	var r request
	if err := json.Unmarshal(body, &r.all); err != nil {
		return r, fmt.Errorf("not a request: %w", err)
	}
	if r.all == nil {
		return r, errors.New("not a request: null")
	}
	if h := field(r.all, "HostConfig"); h != "" {
		if err := json.Unmarshal(r.all[h], &r.host); err != nil {
			return r, fmt.Errorf("HostConfig: %w", err)
		}
	}
	if r.host == nil {
		r.host = map[string]json.RawMessage{}
	}
	return r, nil
}

// field is the name under which a field is there: Docker minds no case. "" when it is not.
func field(m map[string]json.RawMessage, name string) string {
	if _, ok := m[name]; ok {
		return name
	}
	for k := range m {
		if strings.EqualFold(k, name) {
			return k
		}
	}
	return ""
}

// mode is the network that the container shall have in the first place; empty when it is not said.
func (r request) mode() string {
	var m string
	if k := field(r.host, "NetworkMode"); k != "" && json.Unmarshal(r.host[k], &m) != nil {
		return "host" // Docker is to say what is wrong
	}
	return m
}

// apart reports whether a container has a network namespace of its own.
func apart(mode string) bool {
	return mode != "host" && mode != "none" && !strings.HasPrefix(mode, "container:")
}

// withNames is the request with name servers, unless it has some.
func (r request) withNames(n Names) ([]byte, error) {
	for _, x := range []struct {
		name string
		to   []string
	}{{"Dns", n.Servers}, {"DnsSearch", n.Search}} {
		var has []string
		k := field(r.host, x.name)
		if k != "" && json.Unmarshal(r.host[k], &has) != nil || len(has) > 0 {
			break // with its own servers it has its own search list
		}
		if len(x.to) == 0 {
			continue
		}
		b, err := json.Marshal(x.to)
		if err != nil {
			return nil, err
		}
		delete(r.host, k)
		r.host[x.name] = b
	}
	h, err := json.Marshal(r.host)
	if err != nil {
		return nil, err
	}
	delete(r.all, field(r.all, "HostConfig"))
	r.all["HostConfig"] = h
	return json.Marshal(r.all)
}
