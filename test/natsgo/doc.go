// Package natsgo runs the tests of NATS's own Go client against weft's listener: `make test-nats`.
//
// The tests come from the module of nats.go, as they are. Their helper asks a service to start nats-servers; in the module
// suite a replace directive puts another one in its place, which starts the command server beside it (the go command
// refuses an overlay of files in its module cache). tests.txt says which tests are run, and why the others are not.
package natsgo
