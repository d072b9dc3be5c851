package api

// Name is a name in a network, as one host says it: several hosts may have one name.
type Name struct {
	Name       string   `json:"name"`
	Network    string   `json:"network"`
	FQDN       string   `json:"fqdn" doc:"NAME.NETWORK.DOMAIN"`
	Addresses  []string `json:"addresses"`
	Kind       string   `json:"kind" enum:"attachment,alias,given"`
	Attachment string   `json:"attachment,omitempty" doc:"Whose name it is"`
	Host       string   `json:"host" doc:"Who says so"`
	Local      bool     `json:"local" doc:"True when it is the host that answers"`
}

// Kinds of names.
const (
	NameAttachment = "attachment" // its own name
	NameAlias      = "alias"      // a further one
	NameGiven      = "given"      // by weft name add
)

// Names answers GET /v1/names.
type Names struct {
	Names []Name `json:"names"`
}

// NameAdd is the body of POST /v1/names.
type NameAdd struct {
	Network   string   `json:"network,omitempty" maxLength:"63" doc:"Default: weft"`
	Name      string   `json:"name" minLength:"1" maxLength:"80" doc:"Without network and domain; dots may be in it"`
	Addresses []string `json:"addresses" minItems:"1" maxItems:"16" doc:"IPv4 and IPv6; added to those that this host gave the name before"`
}

// Aliases is the body of PUT /v1/attachments/{network}/{name}/aliases.
type Aliases struct {
	Aliases []string `json:"aliases" maxItems:"32" doc:"All further names of the attachment"`
}

// Lookup answers GET /v1/lookup: what a name or an address means in a network.
type Lookup struct {
	Network   string   `json:"network"`
	FQDN      string   `json:"fqdn,omitempty" doc:"When a name was asked for"`
	Addresses []string `json:"addresses"`
	Names     []string `json:"names" doc:"Full names, when an address was asked for"`
}

// Service is where a service is, as one host says it.
type Service struct {
	Service  string   `json:"service" doc:"_NAME._tcp or _NAME._udp"`
	Name     string   `json:"name" doc:"At whose addresses it is"`
	Network  string   `json:"network"`
	FQDN     string   `json:"fqdn" doc:"NAME._service._proto.NETWORK.DOMAIN"`
	Port     int      `json:"port"`
	Priority int      `json:"priority" doc:"The lowest that answers is used"`
	Weight   int      `json:"weight" doc:"Share among those of one priority"`
	Texts    []string `json:"texts" doc:"KEY=VALUE"`
	Host     string   `json:"host" doc:"Who says so"`
	Local    bool     `json:"local"`
}

// Services answers GET /v1/services.
type Services struct {
	Services []Service `json:"services"`
}

// ServiceAdd is the body of POST /v1/services.
type ServiceAdd struct {
	Network  string   `json:"network,omitempty" maxLength:"63" doc:"Default: weft"`
	Service  string   `json:"service" minLength:"1" maxLength:"32" doc:"_NAME._tcp or _NAME._udp"`
	Name     string   `json:"name" minLength:"1" maxLength:"80"`
	Port     int      `json:"port" minimum:"1" maximum:"65535"`
	Priority int      `json:"priority,omitempty" minimum:"0" maximum:"65535"`
	Weight   int      `json:"weight,omitempty" minimum:"0" maximum:"65535"`
	Texts    []string `json:"texts,omitempty" maxItems:"32" doc:"KEY=VALUE"`
}
