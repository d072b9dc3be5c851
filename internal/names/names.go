// Package names knows what the hosts of a network call its addresses and services, and answers DNS queries from it.
//
// A Table is of one network. It is told, host by host, of attachments and of the records below, one change at a time, and of which
// hosts are alive: what a dead one said counts for nothing from that moment on, and again when it is back. So nothing is
// built anew when something changes, and a query costs a look into one map.
//
//	NAME.NETWORK.DOMAIN               A, AAAA: of all attachments of that name or alias, and of names given by hand; in turn
//	ADDRESS.in-addr.arpa, .ip6.arpa   PTR
//	_svc._proto.NETWORK.DOMAIN        PTR: who offers the service (RFC 6763); SRV: where, all of them (RFC 2782)
//	NAME._svc._proto.NETWORK.DOMAIN   SRV, TXT: where one is. The same for _svc._proto.NAME.NETWORK.DOMAIN
//	_services._dns-sd._udp.NETWORK.DOMAIN   PTR: which services there are (RFC 6763 section 9)
//
// NAME.DOMAIN and NAME alone are names of the network that is asked, too.
package names

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/weft-net/weft/internal/record"
)

// Keys of records in a network's scope of the state; the rest of a key is what the record is about.
const (
	KeyGiven   = "name/" // + NAME: Given
	KeyService = "svc/"  // + _svc._proto/NAME: Service
	KeyAliases = "also/" // + an attachment of the writer: Aliases
)

// Owns reports whether a key is of this package.
func Owns(key string) bool {
	return strings.HasPrefix(key, KeyGiven) || strings.HasPrefix(key, KeyService) || strings.HasPrefix(key, KeyAliases)
}

// Given are the addresses of a name that somebody gave by hand. Several hosts may give one name.
type Given struct {
	Addrs []netip.Addr `cbor:"1,keyasint"` // 1 to MaxAddrs
}

// Service is where a service is: at the addresses of its name, at this port (RFC 2782).
type Service struct {
	Port     uint16   `cbor:"1,keyasint"`
	Priority uint16   `cbor:"2,keyasint,omitempty"` // the lowest that answers is used
	Weight   uint16   `cbor:"3,keyasint,omitempty"` // share among those of one priority
	Texts    []string `cbor:"4,keyasint,omitempty"` // KEY=VALUE, as RFC 6763 section 6 has them
}

// Aliases are further names of an attachment: it has them as long as it lives.
type Aliases struct {
	Names []string `cbor:"1,keyasint"` // 1 to MaxAliases
}

// Bounds.
const (
	MaxAddrs   = 16  // of a name given by hand
	MaxAliases = 32  // of an attachment
	MaxTexts   = 32  // of a service
	maxText    = 255 // bytes of one: its length is one byte on the wire
	maxTexts   = 1024
	maxRecord  = 16 << 10

	// With a service before it, and network and domain (ident.MaxDomain) behind it, a name stays within 253 characters.
	maxName  = 80 // characters of a name within a network; dots may be in it
	maxLabel = 63
)

var (
	enc = record.Encoding()
	dec = record.Decoding(record.Bounds{Elements: MaxAliases, Pairs: 16, Depth: 4})
)

// CheckName refuses what cannot be a name in a network: labels of a-z, 0-9, '-' and '_', with dots between them. Container names
// have '_', which is no letter of a host name (RFC 1123) and still works everywhere.
func CheckName(s string) error {
	if err := checkLabels("name", s, maxName); err != nil {
		return err
	}
	if strings.HasPrefix(s, "_") || strings.Contains(s, "._") {
		return fmt.Errorf("name %q: services alone begin with '_'", s)
	}
	if s == "localhost" {
		return errors.New("name \"localhost\" is every machine's own (RFC 6761)")
	}
	return nil
}

func checkLabels(what, s string, most int) error {
	if s == "" || len(s) > most {
		return fmt.Errorf("%s %.30q: want 1 to %d characters", what, s, most)
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > maxLabel {
			return fmt.Errorf("%s %q: between its dots are 1 to %d characters", what, s, maxLabel)
		}
		for i := range len(label) {
			c := label[i]
			ok := c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '_' || c == '-' && i > 0 && i < len(label)-1
			if !ok {
				return fmt.Errorf("%s %q: use a-z, 0-9, '_', and '-' inside", what, s)
			}
		}
	}
	return nil
}

// CheckService refuses what is not a service and its protocol: _http._tcp (RFC 6335 section 5.1, RFC 6763 section 7).
func CheckService(s string) error {
	name, proto, _ := strings.Cut(s, ".")
	if proto != "_tcp" && proto != "_udp" || len(name) < 2 || len(name) > 16 || name[0] != '_' || name == "_services" ||
		checkLabels("service", name[1:], 15) != nil || strings.Contains(name[1:], "_") {
		return fmt.Errorf("service %q: want _NAME._tcp or _NAME._udp, NAME of 1 to 15 of a-z, 0-9 and '-'", s)
	}
	return nil
}

// Check refuses a record that others would not take.
func (g Given) Check() error {
	if len(g.Addrs) == 0 || len(g.Addrs) > MaxAddrs {
		return fmt.Errorf("%d addresses, want 1 to %d", len(g.Addrs), MaxAddrs)
	}
	for _, a := range g.Addrs {
		if !a.IsValid() || a.IsUnspecified() || a.IsMulticast() || a.Is4In6() || a.Zone() != "" {
			return fmt.Errorf("address %v: want one of a machine", a)
		}
	}
	return nil
}

// Check refuses a record that others would not take.
func (s Service) Check() error {
	if s.Port == 0 {
		return errors.New("port 0: want 1 to 65535")
	}
	if len(s.Texts) > MaxTexts {
		return fmt.Errorf("%d texts, want at most %d", len(s.Texts), MaxTexts)
	}
	sum := 0
	for _, t := range s.Texts {
		key, _, _ := strings.Cut(t, "=")
		if key == "" || len(t) > maxText {
			return fmt.Errorf("text %.30q: want KEY=VALUE of at most %d bytes", t, maxText)
		}
		for _, c := range []byte(key) { // RFC 6763 section 6.4
			if c < 0x20 || c > 0x7e {
				return fmt.Errorf("text %.30q: a key is of printable ASCII", t)
			}
		}
		sum += 1 + len(t)
	}
	if sum > maxTexts {
		return fmt.Errorf("texts of %d bytes, want at most %d", sum, maxTexts)
	}
	return nil
}

// Check refuses a record that others would not take.
func (a Aliases) Check() error {
	if len(a.Names) == 0 || len(a.Names) > MaxAliases {
		return fmt.Errorf("%d aliases, want 1 to %d", len(a.Names), MaxAliases)
	}
	for _, n := range a.Names {
		if err := CheckName(n); err != nil {
			return err
		}
	}
	return nil
}

// Encode returns a record as it is published.
func Encode(v interface{ Check() error }) ([]byte, error) {
	if err := v.Check(); err != nil {
		return nil, err
	}
	b, err := enc.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode %T: %w", v, err)
	}
	return b, nil
}

// decode reads what another host published.
func decode[T interface{ Check() error }](b []byte) (T, error) {
	var v T
	if len(b) > maxRecord {
		return v, fmt.Errorf("%d bytes", len(b))
	}
	if err := dec.Unmarshal(b, &v); err != nil {
		return v, err
	}
	return v, v.Check()
}

// DecodeGiven reads the record of a name that was given by hand, and DecodeService that of a service.
func DecodeGiven(b []byte) (Given, error) { return decode[Given](b) }

// DecodeService reads the record of a service.
func DecodeService(b []byte) (Service, error) { return decode[Service](b) }

// DecodeAliases reads the record of an attachment's further names.
func DecodeAliases(b []byte) (Aliases, error) { return decode[Aliases](b) }

// ServiceKey is the key of a service's record; SplitService takes one apart.
func ServiceKey(service, name string) string { return KeyService + service + "/" + name }

// SplitService returns what a service's key names.
func SplitService(key string) (service, name string, err error) {
	service, name, _ = strings.Cut(strings.TrimPrefix(key, KeyService), "/")
	if err := CheckService(service); err != nil {
		return "", "", err
	}
	return service, name, CheckName(name)
}
