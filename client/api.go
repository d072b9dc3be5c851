package client

import (
	"github.com/weft-net/weft/internal/api"
)

// What requests and answers hold; the fields are described in /openapi.json, too.
type (
	Status        = api.Status
	Drop          = api.Drop
	Warning       = api.Warning
	Limit         = api.Limit
	Host          = api.Host
	Hosts         = api.Hosts
	Stranger      = api.Stranger
	HostRemoved   = api.HostRemoved
	Link          = api.Link
	Network       = api.Network
	NetworkCreate = api.NetworkCreate
	Attachment    = api.Attachment
	Attach        = api.Attach
	Group         = api.Group
	Member        = api.Member
	AddressRange  = api.AddressRange
	Probe         = api.Probe
	ProbeResult   = api.ProbeResult
	Down          = api.Down
)

// Error is what the daemon refuses a request with; Code is its class.
type (
	Error = api.Error
	Code  = api.Code
)

// Classes of errors.
const (
	CodeInvalid     = api.CodeInvalid
	CodeRefused     = api.CodeRefused
	CodeNotFound    = api.CodeNotFound
	CodeConflict    = api.CodeConflict
	CodeTooLarge    = api.CodeTooLarge
	CodeInternal    = api.CodeInternal
	CodeUnavailable = api.CodeUnavailable
	CodeTimeout     = api.CodeTimeout
)

// IsCode reports whether err is an Error with this code.
func IsCode(err error, code Code) bool { return api.Is(err, code) }

// Kinds of attachment.
const (
	KindProcess   = api.KindProcess
	KindNetns     = api.KindNetns
	KindContainer = api.KindContainer
	KindHost      = api.KindHost
)
