package cni

import (
	"encoding/json"
	"net/netip"
)

// netInterface is an interface in a result.
type netInterface struct {
	Name    string `json:"name"`
	MAC     string `json:"mac,omitempty"`
	MTU     int    `json:"mtu,omitempty"`     // since 1.1.0
	Sandbox string `json:"sandbox,omitempty"` // the namespace; empty on the host
}

// address is an address in a result.
type address struct {
	Family    string `json:"version,omitempty"` // "4" or "6", until 0.4.0
	Interface *int   `json:"interface,omitempty"`
	Address   string `json:"address"` // with the prefix length
}

// previous is the result of the plugins before, taken apart as far as it is added to. All else is passed on as it came, also what a
// later version of the specification adds.
type previous struct {
	fields     map[string]json.RawMessage
	interfaces []json.RawMessage
	ips        []json.RawMessage
}

func (p *previous) parse(b json.RawMessage) error {
	if err := json.Unmarshal(b, &p.fields); err != nil {
		return errorf(CodeDecode, "prevResult is not a JSON object: %w", err)
	}
	for key, list := range map[string]*[]json.RawMessage{"interfaces": &p.interfaces, "ips": &p.ips} {
		if v := p.fields[key]; v != nil {
			if err := json.Unmarshal(v, list); err != nil {
				return errorf(CodeDecode, "prevResult.%s is not a list: %w", key, err)
			}
		}
	}
	return nil
}

// parsePrevious reads prevResult; without one it is empty. The lists are there since 0.3.0, and chains with them.
func parsePrevious(version string, b json.RawMessage) (previous, error) {
	var p previous
	if len(b) == 0 || string(b) == "null" {
		return p, nil
	}
	if !since(version, "0.3.0") {
		return p, errorf(CodeConfig, "prevResult in a configuration of version %s: there are chains since 0.3.0", version)
	}
	return p, p.parse(b)
}

// find returns the interface of a name in a namespace, or on the host.
func (p previous) find(name, sandbox string) (netInterface, bool) {
	for _, raw := range p.interfaces {
		var i netInterface
		if json.Unmarshal(raw, &i) == nil && i.Name == name && i.Sandbox == sandbox {
			return i, true
		}
	}
	return netInterface{}, false
}

// result is what an attachment adds to the result.
type result struct {
	port  netInterface // on the host
	inner netInterface // in the container
	ips   []netip.Prefix
	dns   dns
}

// encode returns the result in the form of a version, behind that of the plugins before.
func (r result) encode(version string, p previous) ([]byte, error) {
	if !since(version, "0.3.0") {
		return r.encodeOld(version)
	}
	out := map[string]any{}
	for k, v := range p.fields {
		out[k] = v
	}
	var interfaces, ips []any
	for _, raw := range p.interfaces {
		interfaces = append(interfaces, raw)
	}
	for _, raw := range p.ips {
		ips = append(ips, raw)
	}
	index := len(interfaces) + 1 // of the inner one
	inner := r.inner
	if !since(version, "1.1.0") {
		inner.MTU = 0
	}
	for _, ip := range r.ips {
		a := address{Interface: &index, Address: ip.String()}
		if !since(version, "1.0.0") {
			a.Family = family(ip)
		}
		ips = append(ips, a)
	}
	out["cniVersion"], out["interfaces"], out["ips"] = version, append(interfaces, r.port, inner), ips
	// The name servers of the plugin before know the cluster that the container is of; weft's know that of weft only.
	var before dns
	if raw := p.fields["dns"]; raw != nil && json.Unmarshal(raw, &before) != nil {
		before = dns{Domain: "unreadable"} // not ours to replace
	}
	if before.empty() {
		delete(out, "dns")
		if !r.dns.empty() {
			out["dns"] = r.dns
		}
	}
	return json.MarshalIndent(out, "", "  ")
}

func family(p netip.Prefix) string {
	if p.Addr().Is4() {
		return "4"
	}
	return "6"
}

// encodeOld is encode for versions that know one address of each family and no interfaces.
func (r result) encodeOld(version string) ([]byte, error) {
	type entry struct {
		IP string `json:"ip"`
	}
	out := struct {
		Version string `json:"cniVersion"`
		IP4     *entry `json:"ip4,omitempty"`
		IP6     *entry `json:"ip6,omitempty"`
		DNS     *dns   `json:"dns,omitempty"`
	}{Version: version}
	for _, ip := range r.ips {
		if ip.Addr().Is4() {
			out.IP4 = &entry{ip.String()}
		} else {
			out.IP6 = &entry{ip.String()}
		}
	}
	if !r.dns.empty() {
		out.DNS = &r.dns
	}
	return json.MarshalIndent(out, "", "  ")
}
