package cni

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/weft-net/weft/client"
	"github.com/weft-net/weft/internal/api"
)

// fakeWeft is a daemon with one network, in memory.
type fakeWeft struct {
	calls       []string
	state       string
	used        uint64 // attachments, of 1000
	attachments []client.Attachment
	fail        map[string]error // by what is called; "" for all
}

func (f *fakeWeft) called(name, format string, args ...any) error {
	f.calls = append(f.calls, strings.TrimSpace(name+" "+fmt.Sprintf(format, args...)))
	if err := f.fail[name]; err != nil {
		return err
	}
	return f.fail[""]
}

func (f *fakeWeft) Status(context.Context) (client.Status, error) {
	s := client.Status{State: f.state, Reason: "10.0.0.1:6783 does not answer"}
	s.Limits = []api.Limit{{Name: "attachments", Used: f.used, Max: 1000}, {Name: "names", Used: 7, Max: 7}}
	return s, f.called("status", "")
}

func (f *fakeWeft) Networks(context.Context) ([]client.Network, error) {
	return []client.Network{{Name: "weft"}, {Name: "films"}}, f.called("networks", "")
}

func (f *fakeWeft) Attachments(context.Context) ([]client.Attachment, error) {
	return slices.Clone(f.attachments), f.called("attachments", "")
}

func (f *fakeWeft) Attach(_ context.Context, a client.Attach) (client.Attachment, error) {
	if err := f.called("attach", "%s/%s kind=%s netns=%s interface=%s ips=%v renew=%v", a.Network, a.Name, a.Kind, a.Netns, a.Interface, a.IPs, a.Renew); err != nil {
		return client.Attachment{}, err
	}
	out := client.Attachment{
		Name: a.Name, Network: a.Network, Kind: a.Kind, Netns: a.Netns, Interface: a.Interface, Local: true,
		MAC: "02:57:0a:20:00:02", IPs: []string{"10.32.0.2/20", "fd00:7:7::a20:2/64"}, MTU: 1400,
		DNS: []string{"10.32.0.1"}, Search: []string{a.Network + ".weft.internal", "weft.internal"},
	}
	if a.Interface == "" {
		out.Interface = "weft0"
	}
	f.attachments = append(f.attachments, out)
	return out, nil
}

func (f *fakeWeft) Detach(_ context.Context, network, name string) error {
	if err := f.called("detach", "%s/%s", network, name); err != nil {
		return err
	}
	n := len(f.attachments)
	f.attachments = slices.DeleteFunc(f.attachments, func(a client.Attachment) bool { return a.Network == network && a.Name == name })
	if len(f.attachments) == n {
		return api.Errorf(api.CodeNotFound, "no attachment %s in network %s", name, network)
	}
	return nil
}

func (f *fakeWeft) SetAliases(_ context.Context, network, name string, aliases ...string) error {
	return f.called("aliases", "%s/%s %v", network, name, aliases)
}

// fakeHost has a namespace with what the fake daemon puts there.
type fakeHost struct {
	calls  []string
	gone   bool
	inner  Inner
	remove error
}

func newFakeHost() *fakeHost {
	return &fakeHost{inner: Inner{MAC: "02:57:0a:20:00:02", Up: true, IPs: []netip.Prefix{
		netip.MustParsePrefix("10.32.0.2/20"), netip.MustParsePrefix("fd00:7:7::a20:2/64"), netip.MustParsePrefix("fe80::1/64"),
	}}}
}

func (f *fakeHost) Namespace(path string) error {
	if f.gone {
		return errors.New("open network namespace: open " + path + ": no such file or directory")
	}
	return nil
}

func (f *fakeHost) Inside(_, name string) (Inner, error) {
	if name != "eth0" && name != "weft0" {
		return Inner{}, errors.New("no such interface")
	}
	return f.inner, nil
}

func (f *fakeHost) MAC(string) string { return "fe:00:00:00:00:01" }

func (f *fakeHost) Remove(name string) error {
	f.calls = append(f.calls, "remove "+name)
	return f.remove
}
