// Command weft runs a host of a weft cluster and talks to it; see docs/design.md.
package main

func main() {}
