package nameserver

import (
	"io"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"
)

// ResolvConf is the file that names the host's resolvers.
const ResolvConf = "/etc/resolv.conf"

const (
	// statTime is how often the file is looked at for changes, at most.
	statTime = 5 * time.Second
	// maxFile is how much of it is read, in bytes.
	maxFile = 64 << 10
)

// Resolvers are those of a file of the form of resolv.conf(5), followed when it changes.
type Resolvers struct {
	path string

	mu   sync.Mutex // guards all below
	next time.Time  // when to look again
	info os.FileInfo
	list []netip.AddrPort
}

// NewResolvers returns the resolvers that a file names.
func NewResolvers(path string) *Resolvers { return &Resolvers{path: path} }

// List returns them in their order; none while there is no such file. The list is not to be changed.
func (r *Resolvers) List() []netip.AddrPort {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	if now.Before(r.next) {
		return r.list
	}
	r.next = now.Add(statTime)
	info, err := os.Stat(r.path)
	if err != nil {
		r.info, r.list = nil, nil
		return nil
	}
	if r.info != nil && os.SameFile(info, r.info) && info.ModTime().Equal(r.info.ModTime()) && info.Size() == r.info.Size() {
		return r.list
	}
	f, err := os.Open(r.path)
	if err != nil {
		r.info, r.list = nil, nil
		return nil
	}
	defer func() { _ = f.Close() }()
	b, err := io.ReadAll(io.LimitReader(f, maxFile))
	if err != nil {
		return r.list
	}
	r.info, r.list = info, parseResolvers(string(b))
	return r.list
}

// parseResolvers reads the lines that name servers; what is none is passed over, as the C library does.
func parseResolvers(text string) (list []netip.AddrPort) {
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0] != "nameserver" || len(list) == maxServers {
			continue
		}
		if a, err := netip.ParseAddr(fields[1]); err == nil && !a.IsMulticast() {
			if a.IsUnspecified() { // the C library takes it for this machine
				a = netip.AddrFrom4([4]byte{127, 0, 0, 1})
			}
			list = append(list, netip.AddrPortFrom(a.Unmap(), Port))
		}
	}
	return list
}
