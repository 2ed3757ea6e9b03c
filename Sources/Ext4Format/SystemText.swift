internal import Glibc

/// The text of an errno, as strerror(3) has it.
package func systemText(_ number: CInt) -> String {
    guard let text = unsafe strerror(number) else { return "errno \(number)" }
    return unsafe String(cString: text)
}
