package rig

// ForSwarm says, before Docker, that this host's engine is to be a node of a Swarm: its containers end with it, for Swarm refuses live
// restore.
func (h *Host) ForSwarm() { h.swarm = true }

// Where is the DOCKER_HOST of this engine.
func (d *Docker) Where() string { return d.socket() }
