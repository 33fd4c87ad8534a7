// "Generate forever", in the menu of Generate, as A1111's page has it: when a job has ended, the next begins. Interrupt, an
// error and the menu end it.
(() => {
  'use strict'
  const forever = new Set()
  let menu = null

  const tabOf = (button) => button.id.replace(/_generate$/, '')

  function close() {
    menu?.remove()
    menu = null
  }

  function mark(tab) {
    document.getElementById(`${tab}_generate`)?.classList.toggle('rp-forever', forever.has(tab))
  }

  function end(tab) {
    if (forever.delete(tab)) mark(tab)
  }

  document.addEventListener('contextmenu', (event) => {
    const button = event.target.closest?.('#txt2img_generate, #img2img_generate, #inpaint_generate')
    close()
    if (!button) return
    event.preventDefault()
    const tab = tabOf(button), item = document.createElement('button')
    menu = Object.assign(document.createElement('div'), { className: 'rp-menu' })
    menu.setAttribute('role', 'menu')
    item.type = 'button'
    item.setAttribute('role', 'menuitem')
    item.textContent = forever.has(tab) ? 'Stop generating forever' : 'Generate forever'
    item.addEventListener('click', () => {
      close()
      if (forever.has(tab)) return end(tab)
      forever.add(tab)
      mark(tab)
      if (document.getElementById(`${tab}_interrupt`).disabled) button.click()
    })
    menu.append(item)
    document.body.append(menu)
    const box = button.getBoundingClientRect()
    menu.style.left = `${box.left}px`
    menu.style.top = `${box.top - menu.offsetHeight - 6}px`
    item.focus()
  })

  document.addEventListener('click', (event) => {
    if (menu && !menu.contains(event.target)) close()
    const stop = event.target.closest?.('button[id$="_interrupt"]')
    if (stop) end(stop.id.replace(/_interrupt$/, ''))
  }, true)
  document.addEventListener('keydown', (event) => {
    if (event.key !== 'Escape' || !menu) return
    close()
    event.preventDefault()
    event.stopPropagation()
  }, true)

  window.reprise.on('result', ({ tab }) => {
    if (!forever.has(tab)) return
    if (document.querySelector(`#${tab}_status .rp-status[data-phase="failed"]`)) return end(tab)
    setTimeout(() => forever.has(tab) && document.getElementById(`${tab}_generate`)?.click(), 50)
  })
})()
