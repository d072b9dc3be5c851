// Package arch holds no code: its tests refuse what the design forbids, such as an import that points upward.
package arch
