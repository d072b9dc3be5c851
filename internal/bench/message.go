package bench

import (
	"net/netip"

	"github.com/weft-net/weft/internal/api"
	"github.com/weft-net/weft/internal/ident"
	"github.com/weft-net/weft/internal/load"
)

// ask is a line of the host that conducts: one of its fields.
type ask struct {
	Open  *open         `json:"open,omitempty"`
	Do    *load.Request `json:"do,omitempty"`
	Usage *struct{}     `json:"usage,omitempty"`
	Bus   *busAsk       `json:"bus,omitempty"`
	Bye   *struct{}     `json:"bye,omitempty"`
}

// open begins a session.
type open struct {
	Network string     `json:"network"`
	Bus     bool       `json:"bus,omitempty"`  // no network: the cluster's bus
	Group   netip.Addr `json:"group,omitzero"` // the only one that may be joined and sent to
}

func (o open) check() error {
	if o.Bus {
		return nil
	}
	if err := ident.CheckName("network", o.Network); err != nil {
		return api.Errorf(api.CodeInvalid, "%w", err)
	}
	if o.Group.IsValid() && !measurable(o.Group) {
		return api.Errorf(api.CodeInvalid, "%s is no IPv4 group to measure with", o.Group)
	}
	return nil
}

// answer is a line of an Endpoint: one of its fields.
type answer struct {
	Opened  *opened     `json:"opened,omitempty"`
	Did     *load.Reply `json:"did,omitempty"`
	Usage   *usage      `json:"usage,omitempty"`
	Bus     *busReply   `json:"bus,omitempty"`
	Closed  *struct{}   `json:"closed,omitempty"`
	Refused *refusal    `json:"refused,omitempty"`
}

// opened describes the attachment of an Endpoint.
type opened struct {
	Address netip.Prefix `json:"address"`
	MTU     int          `json:"mtu"`
	Engine  string       `json:"engine"`
}

// usage is processor time since the start of the daemon and of the machine; boot names the machine's run.
type usage struct {
	DaemonNS  int64  `json:"daemon_ns"`
	MachineNS int64  `json:"machine_ns"`
	Boot      string `json:"boot"`
}

// refusal is why something was not done.
type refusal struct {
	Code api.Code `json:"code"`
	Text string   `json:"text"`
	Hint string   `json:"hint,omitempty"`
}

// of makes an error of a host's refusal.
func (r refusal) of(host string) error {
	e := api.Errorf(r.Code, "host %s: %s", host, r.Text)
	if r.Hint != "" {
		e = e.WithHint("%s", r.Hint)
	}
	return e
}
