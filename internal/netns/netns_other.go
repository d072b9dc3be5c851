//go:build !linux

package netns

// OS returns a System that refuses everything.
func OS() System { return unsupported{} }

type unsupported struct{}

func (unsupported) Current() (Namespace, error)     { return nil, ErrUnsupported }
func (unsupported) Path(string) (Namespace, error)  { return nil, ErrUnsupported }
func (unsupported) PID(int) (Namespace, error)      { return nil, ErrUnsupported }
func (unsupported) Each(func(Namespace) bool) error { return ErrUnsupported }
func (unsupported) New() (Namespace, error)         { return nil, ErrUnsupported }
func (unsupported) Process(int) (Process, error)    { return nil, ErrUnsupported }
