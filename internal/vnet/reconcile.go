package vnet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/weft-net/weft/internal/nl"
)

// Report says what Reconcile found.
type Report struct {
	Adopted []Attachment // alive: they take part again once their network is ensured
	Lost    []Attachment // recorded, but ended meanwhile
	Removed []string     // interfaces that belonged to nothing living
}

// saved is the record that outlives the daemon. An attachment is in it only when it is
// complete: what a killed daemon had half made has no record, and is removed.
type saved struct {
	Version     int          `json:"version"`
	Attachments []Attachment `json:"attachments"`
}

const savedVersion = 1

// save writes the record. Precondition: v.mu must be locked.
func (v *VNet) save() error {
	s := saved{Version: savedVersion, Attachments: []Attachment{}}
	for _, a := range v.attachments {
		s.Attachments = append(s.Attachments, a.Attachment)
	}
	slices.SortFunc(s.Attachments, func(a, b Attachment) int { return strings.Compare(a.Port, b.Port) })
	b, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("save attachments: %w", err)
	}
	if err := v.cfg.Store.Save(b); err != nil {
		return fmt.Errorf("save attachments: %w", err)
	}
	return nil
}

// parseSaved reads a record and refuses what Attach would not have made.
func parseSaved(b []byte) ([]Attachment, error) {
	if len(b) == 0 {
		return nil, nil
	}
	if len(b) > maxState {
		return nil, fmt.Errorf("saved attachments: %d bytes, want at most %d", len(b), maxState)
	}
	var s saved
	if err := json.Unmarshal(b, &s); err != nil {
		return nil, fmt.Errorf("saved attachments: %w", err)
	}
	if s.Version != savedVersion {
		return nil, fmt.Errorf("saved attachments: version %d, this weft reads %d", s.Version, savedVersion)
	}
	if len(s.Attachments) > MaxAttachments {
		return nil, fmt.Errorf("saved attachments: %d, want at most %d", len(s.Attachments), MaxAttachments)
	}
	for _, a := range s.Attachments {
		if err := a.check(); err != nil {
			return nil, fmt.Errorf("saved attachments: %w", err)
		}
		if a.VNI == 0 || a.VNI > MaxVNI || a.Port != PortName(a.Network, a.Name) {
			return nil, fmt.Errorf("saved attachments: %s does not belong to VNI %d, port %q", a.Name, a.VNI, a.Port)
		}
		if a.Kind == KindDocker && a.Interface != InnerName(a.Network, a.Name) {
			return nil, fmt.Errorf("saved attachments: %s does not belong to interface %q", a.Name, a.Interface)
		}
	}
	return s.Attachments, nil
}

// Reconcile takes over what the daemon before left, however it ended: recorded attachments
// that are alive are adopted, every other interface of ours in this namespace is removed. Call it
// once, before Ensure. Bridges of adopted attachments stay, so local traffic is not cut.
func (v *VNet) Reconcile(ctx context.Context) (Report, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	var r Report
	if err := v.usable(ctx); err != nil {
		return r, err
	}
	b, err := v.cfg.Store.Load()
	if err != nil {
		return r, fmt.Errorf("load attachments: %w", err)
	}
	records, err := parseSaved(b)
	if err != nil {
		return r, err
	}
	links, err := v.nl.Links()
	if err != nil {
		return r, err
	}
	byName := make(map[string]nl.Link, len(links))
	for _, l := range links {
		if ours(l) {
			byName[l.Name] = l
		}
	}
	keep := map[string]bool{}
	for _, vni := range v.cfg.Keep {
		keep[BridgeName(vni)], keep[UplinkName(vni)], keep[VXLANName(vni)] = true, true, true
	}
	for _, rec := range records {
		port, present := byName[rec.Port]
		a := &attachment{Attachment: rec, port: port.Index}
		if !present || !v.adopt(a) {
			r.Lost = append(r.Lost, rec)
			continue
		}
		v.attachments[key{rec.Network, rec.Name}] = a
		keep[rec.Port], keep[BridgeName(rec.VNI)] = true, true
		keep[VXLANName(rec.VNI)] = true // of a plain network, whose traffic goes on
		if rec.Kind == KindDocker {
			keep[rec.Interface] = true // should it lie here
		}
		r.Adopted = append(r.Adopted, rec)
	}
	var errs []error
	for name := range byName {
		if keep[name] {
			continue
		}
		if err := v.nl.Delete(name); err != nil {
			errs = append(errs, err)
			continue
		}
		r.Removed = append(r.Removed, name)
	}
	slices.Sort(r.Removed)
	if len(r.Lost) > 0 {
		errs = append(errs, v.save())
	}
	return r, errors.Join(errs...)
}

// adopt checks that an attachment's process or namespace is the recorded one, and watches it. The
// veth is there, hence the namespace it was put into too.
func (v *VNet) adopt(a *attachment) bool {
	switch {
	case a.Kind == KindExpose:
		return a.NS == v.cfg.Host.ID()
	case a.Kind == KindDocker:
		return true // who has the inner end is Docker's to know
	case a.PID != 0:
		proc, err := v.cfg.Netns.Process(a.PID)
		if err != nil {
			return false
		}
		if proc.StartTime() != a.StartTime {
			_ = proc.Close()
			return false
		}
		v.watch(a, proc)
		return true
	default:
		ns, err := v.cfg.Netns.Path(a.Netns)
		if err != nil {
			return false
		}
		defer ns.Close()
		return ns.ID() == a.NS
	}
}

// Clean removes every interface of ours in this namespace and forgets all attachments. It
// ends the service like Down; it works without Reconcile too, after a crash.
func (v *VNet) Clean() ([]string, error) {
	v.mu.Lock()
	links, err := v.nl.Links()
	if err != nil {
		v.mu.Unlock()
		return nil, err
	}
	var removed []string
	var errs []error
	for _, l := range links {
		if !ours(l) {
			continue
		}
		if err := v.nl.Delete(l.Name); err != nil {
			errs = append(errs, err)
			continue
		}
		removed = append(removed, l.Name)
	}
	clear(v.attachments)
	for _, n := range v.networks {
		n.service = nil // gone with its port
	}
	if b, err := v.cfg.Store.Load(); err != nil || len(b) > 0 { // a host that never was one has no record, and nobody who may write one
		errs = append(errs, v.save())
	}
	v.mu.Unlock()
	slices.Sort(removed)
	return removed, errors.Join(append(errs, v.Down())...)
}
