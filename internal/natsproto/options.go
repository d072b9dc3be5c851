package natsproto

import (
	"encoding/json"
	"fmt"
)

// Options are what a client says of itself in CONNECT. What belongs to parts that are not here (accounts, JetStream, clusters) is passed over.
type Options struct {
	Verbose      bool   `json:"verbose"`  // wants +OK after each operation
	Pedantic     bool   `json:"pedantic"` // wants subjects checked: they always are
	Echo         bool   `json:"echo"`     // gets its own messages
	Headers      bool   `json:"headers"`  // understands HMSG
	NoResponders bool   `json:"no_responders"`
	Token        string `json:"auth_token"`
	User         string `json:"user"`
	Password     string `json:"pass"`
	Name         string `json:"name"`
	Lang         string `json:"lang"`
	Version      string `json:"version"`
	Protocol     int    `json:"protocol"`
}

// ParseOptions reads the argument of CONNECT.
func ParseOptions(b []byte) (Options, error) {
	o := Options{Verbose: true, Echo: true} // as nats-server takes them when nothing is said
	if len(b) > MaxControlLine {
		return Options{}, ErrControlLine
	}
	if err := json.Unmarshal(b, &o); err != nil {
		return Options{}, fmt.Errorf("options of CONNECT: %w", err)
	}
	return o, nil
}

// Info is what a server says of itself first of all.
type Info struct {
	ID           string `json:"server_id"`
	Name         string `json:"server_name"`
	Version      string `json:"version"` // of nats-server whose protocol it speaks: clients compare it
	Proto        int    `json:"proto"`
	Go           string `json:"go"`
	Host         string `json:"host"`
	Port         int    `json:"port"`
	Headers      bool   `json:"headers"`
	MaxPayload   int    `json:"max_payload"`
	AuthRequired bool   `json:"auth_required,omitempty"`
	TLSRequired  bool   `json:"tls_required,omitempty"`
	ClientID     uint64 `json:"client_id"`
	ClientIP     string `json:"client_ip,omitempty"`
	LameDuck     bool   `json:"ldm,omitempty"`
	Weft         string `json:"weft"` // weft's own version
}
