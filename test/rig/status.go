package rig

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/weft-net/weft/client"
)

// The objects of `weft ... --json` that tests look at; unknown fields are ignored, as the contract wants.
type (
	// HostStatus is a host as another sees it.
	HostStatus struct {
		ID        string   `json:"id"`
		Name      string   `json:"name"`
		State     string   `json:"state"`
		Endpoints []string `json:"endpoints"`
		Version   string   `json:"version"`
	}
	// LinkStatus is a link of the host asked.
	LinkStatus struct {
		Host     string  `json:"host"`
		Path     string  `json:"path"`
		Via      string  `json:"via"`
		Reason   string  `json:"reason"`
		Endpoint string  `json:"endpoint"`
		RTTms    float64 `json:"rtt_ms"`
		MTU      int     `json:"mtu"`
	}
	// MemberStatus is one member of a group.
	MemberStatus struct {
		Attachment string `json:"attachment"`
		Host       string `json:"host"`
	}
	// GroupStatus is a group with its counters on the host asked.
	GroupStatus struct {
		Network     string         `json:"network"`
		Group       string         `json:"group"`
		Source      string         `json:"source"`
		Members     []MemberStatus `json:"members"`
		PacketsIn   uint64         `json:"packets_in"`
		PacketsOut  uint64         `json:"packets_out"`
		BytesIn     uint64         `json:"bytes_in"`
		BytesOut    uint64         `json:"bytes_out"`
		CopiesSent  uint64         `json:"copies_sent"`
		CopiesSaved uint64         `json:"copies_saved"`
		ByMulticast int            `json:"by_multicast"`
		ByTree      int            `json:"by_tree"`
		ByCopy      int            `json:"by_copy"`
	}
	// AttachmentStatus is an attachment.
	AttachmentStatus struct {
		Name    string   `json:"name"`
		Network string   `json:"network"`
		Host    string   `json:"host"`
		MAC     string   `json:"mac"`
		IPs     []string `json:"ips"`
	}
	// NetworkStatus is a network.
	NetworkStatus struct {
		Name    string   `json:"name"`
		VNI     uint32   `json:"vni"`
		Engine  string   `json:"engine"`
		Subnets []string `json:"subnets"`
		MTU     int      `json:"mtu"`
	}
)

// Status asks the host's socket.
func (h *Host) Status() (client.Status, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	c := client.Dial(client.SocketPath(h.run))
	defer c.Close()
	return c.Status(ctx)
}

// Hosts is `weft hosts --json`.
func (h *Host) Hosts() ([]HostStatus, error) {
	var v struct{ Hosts []HostStatus }
	err := h.JSON(&v, "hosts")
	return v.Hosts, err
}

// Links is `weft links --json`.
func (h *Host) Links() ([]LinkStatus, error) {
	var v struct{ Links []LinkStatus }
	err := h.JSON(&v, "links")
	return v.Links, err
}

// Link is the link to one host.
func (h *Host) Link(to string) (LinkStatus, error) {
	all, err := h.Links()
	if err != nil {
		return LinkStatus{}, err
	}
	for _, l := range all {
		if l.Host == to {
			return l, nil
		}
	}
	return LinkStatus{}, fmt.Errorf("%s has no link to %s", h.Name, to)
}

// Groups is `weft groups --json`.
func (h *Host) Groups() ([]GroupStatus, error) {
	var v struct{ Groups []GroupStatus }
	err := h.JSON(&v, "groups")
	return v.Groups, err
}

// Group is one group of `weft groups`, in any network; an absent one has no members.
func (h *Host) Group(group string) (GroupStatus, error) {
	all, err := h.Groups()
	if err != nil {
		return GroupStatus{}, err
	}
	for _, g := range all {
		if g.Group == group {
			return g, nil
		}
	}
	return GroupStatus{Group: group}, nil
}

// Attachments is `weft attachments --json`.
func (h *Host) Attachments() ([]AttachmentStatus, error) {
	var v struct{ Attachments []AttachmentStatus }
	err := h.JSON(&v, "attachments")
	return v.Attachments, err
}

// Attachment is one attachment of `weft attachments`.
func (h *Host) Attachment(name string) (AttachmentStatus, error) {
	all, err := h.Attachments()
	if err != nil {
		return AttachmentStatus{}, err
	}
	for _, a := range all {
		if a.Name == name {
			return a, nil
		}
	}
	return AttachmentStatus{}, fmt.Errorf("%s knows no attachment %s", h.Name, name)
}

// Networks is `weft networks --json`.
func (h *Host) Networks() ([]NetworkStatus, error) {
	var v struct{ Networks []NetworkStatus }
	err := h.JSON(&v, "networks")
	return v.Networks, err
}

// KnowsAlive checks that h sees every one of them as alive.
func (h *Host) KnowsAlive(others ...*Host) error {
	all, err := h.Hosts()
	if err != nil {
		return err
	}
	state := map[string]string{}
	for _, s := range all {
		if state[s.Name] != "alive" { // a host that lost its state stands there a second time, dead
			state[s.Name] = s.State
		}
	}
	for _, o := range others {
		if s := state[o.Name]; s != "alive" {
			return fmt.Errorf("%s sees %s as %q", h.Name, o.Name, s)
		}
	}
	return nil
}

// AllKnowAll waits until every host sees every host as alive. It asks the daemons' sockets: fifty hosts
// asked by a command each, again and again, would leave them little of the machine.
func AllKnowAll(t testing.TB, d time.Duration, hosts ...*Host) {
	t.Helper()
	start := time.Now()
	missing := slices.Clone(hosts)
	Eventually(t, d, func() error {
		var first error
		missing = slices.DeleteFunc(missing, func(h *Host) bool {
			if first == nil {
				first = h.seesAlive(hosts)
			}
			return first == nil
		})
		return first
	})
	if err := hosts[0].KnowsAlive(hosts...); err != nil { // and the command says so, too
		t.Fatal(err)
	}
	t.Logf("all %d hosts know all after %v", len(hosts), time.Since(start).Round(10*time.Millisecond))
}

// seesAlive asks a host's socket whether others are alive for it.
func (h *Host) seesAlive(others []*Host) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	c := client.Dial(client.SocketPath(h.run))
	defer c.Close()
	all, err := c.Hosts(ctx)
	if err != nil {
		return err
	}
	state := map[string]string{}
	for _, s := range all.Hosts {
		if state[s.Name] != "alive" {
			state[s.Name] = s.State
		}
	}
	for _, o := range others {
		if s := state[o.Name]; s != "alive" {
			return fmt.Errorf("%s sees %s as %q", h.Name, o.Name, s)
		}
	}
	return nil
}

// AwaitMembers waits until the given host sees n members of a group.
func AwaitMembers(t testing.TB, d time.Duration, h *Host, group string, n int) {
	t.Helper()
	Eventually(t, d, func() error {
		g, err := h.Group(group)
		if err != nil {
			return err
		}
		if len(g.Members) != n {
			return fmt.Errorf("%s sees %d members of %s, want %d: %v", h.Name, len(g.Members), group, n, g.Members)
		}
		return nil
	})
}

// AwaitPath waits until the link of two hosts takes a path.
func AwaitPath(t testing.TB, d time.Duration, a, b *Host, path string) LinkStatus {
	t.Helper()
	var got LinkStatus
	Eventually(t, d, func() error {
		var err error
		if got, err = a.Link(b.Name); err != nil {
			return err
		}
		if got.Path != path {
			return errors.New(a.Name + " reaches " + b.Name + " " + got.Path + " " + got.Via + " (" + got.Reason + "), want " + path)
		}
		return nil
	})
	return got
}
