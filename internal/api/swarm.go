package api

// SwarmAllow is the body of PUT /v1/docker/swarm.
type SwarmAllow struct {
	Socket string `json:"socket" maxLength:"255" doc:"Docker's, from the root; empty: Docker is left alone"`
}

// SwarmNetwork is the body of PUT /v1/docker/networks/{name}: a network that all nodes of a Swarm are to have the configuration of.
type SwarmNetwork struct {
	Subnet  string            `json:"subnet" minLength:"1" maxLength:"32" doc:"IPv4, CIDR"`
	Options map[string]string `json:"options,omitempty" doc:"docker network create -o; at most 16"`
}

// SwarmNode is a host whose Docker follows the cluster, and how far it is with a network.
type SwarmNode struct {
	Host    string `json:"host"`
	Node    string `json:"node" doc:"Its ID in the Swarm; empty: in none"`
	Waiting bool   `json:"waiting" doc:"True until it has tried"`
	Reason  string `json:"reason,omitempty" doc:"Why it has not what was asked for"`
}

// SwarmNodes answers GET /v1/docker/networks/{name}.
type SwarmNodes struct {
	Network string      `json:"network"`
	Gone    bool        `json:"gone" doc:"True when it is to be removed"`
	Nodes   []SwarmNode `json:"nodes"`
}
